"""What is answered: beam search over the catalogue, held as arrays."""
