"""The customer-service application on top of the Triton model `qwen3_vl`.

A customer sends text with pictures or a recording. The gateway masks private data, asks the model, finds the company's
articles, checks what comes out, and hands over to a person when it is not sure. docs/customer-service.md tells it whole.

    records    what the parts hand to each other      settings   everything that can be configured
    guard      what comes in: media, private data     policy     what goes out: blocked words, disclaimer
    knowledge  articles, retrieval, citations         confidence how sure an answer is
    assistant  from a question to an answer           cache      answers that were given before
    store      tickets, answers, feedback, hand-offs  queue      Kafka, workers
    api        HTTP                                   page       the web page
"""
