"""The optional model `ocr`: where in a picture is text, and what does it say."""
