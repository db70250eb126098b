"""What things cost on this machine: the roofline of a model, and every way to decode beside its peers."""
