"""The language model as a TensorRT-LLM 1.2.1 engine: options, model definition, weights, quantisation, adapters."""
