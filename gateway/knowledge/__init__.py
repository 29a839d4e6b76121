"""The company's articles: kept in versions, found for a question, and held against what an answer says.

    article    what an article is            reading    Markdown, CSV and JSON files -> articles
    shelf      articles in SQLite            passages   long articles -> pieces that fit a prompt
    folding, terms  text -> what is compared index      passages -> the best ones for a question
    library    all of these together         embedder   the plug for an embedding model
    citations  does the answer rest on what it cites   kb   the command line

It knows no model, no tenant's key and no HTTP.
"""
