"""A trained model for others: an ordinary Hugging Face directory with a card made from its run."""
