"""Commands for those who train models and measure them."""
