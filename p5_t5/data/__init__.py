"""What is known: the three tables of a data set, their split, and the short codes of the items."""
