"""Networks: Linen modules, independent of training and configuration."""
