"""From a customer's request to the tensors that both engines take. Imports neither torch, transformers nor
Triton.
"""
