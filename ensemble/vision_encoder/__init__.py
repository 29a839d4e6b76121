"""From packed patches of pictures to the rows that the language model reads."""
