"""The generator of the bundled chat data set, microgpt/data/chat.jsonl.gz; scripts/build_chat.py runs it."""
