"""What is learnt: the tokenizer, the model and its batches."""
