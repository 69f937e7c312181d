"""How well validation tells true texts from false: texts of known truth, rates, and the single checks."""
