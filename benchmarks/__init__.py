"""Speed and equality against other frameworks; nothing here is part of the installed package."""
