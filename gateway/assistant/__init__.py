"""From a question to an answer: draft, articles, grounded answer, checks."""
