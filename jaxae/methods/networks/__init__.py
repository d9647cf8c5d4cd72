"""Networks: Linen modules that know nothing of training or configuration."""
