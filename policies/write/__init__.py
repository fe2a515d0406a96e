"""Write policies: which prefixes of an HBM are copied to the stores below, and when."""
