"""The in-flight batcher of the openvino target: numpy and openvino only.

Read in this order; a request takes the same way:

    request        what comes in (Request) and what goes out (Output)
    engine         one thread, submit and cancel from any other
    batcher        one step: schedule, pack, forward, sample, hand out
    scheduler      who runs in the next step, and who gives its blocks back
    sequence       the state of one request between steps
    block_manager  paged KV blocks, shared by equal prefixes
    batch          chunks of sequences -> the flat arrays of the graph
    forward        LanguageModel (the seam), and OpenVINO behind it
    sampler        logits -> next token and its log-probability
    kv_cache       how many blocks a deployment gets
"""
