"""Write a text in the format of nanochat. Runs in the Python with nanochat's libraries, which may lack microgpt.

    python nanochat_data.py FOLDER     # FOLDER/text.json: {"chars": [...], "train": [...], "val": [...]}

FOLDER becomes a NANOCHAT_BASE_DIR with two parquet files that have a column `text`, the last of which nanochat uses for
validation, and a tokenizer whose tokens are the characters.
"""

import json
import pickle
import sys
from pathlib import Path

SPECIAL = ("bos", "user_start", "user_end", "assistant_start", "assistant_end", "python_start", "python_end",
           "output_start", "output_end")  # fmt: skip
DOCUMENTS_AT_ONCE = 1000


def main(folder: Path) -> None:
    import pyarrow  # pyright: ignore[reportMissingImports]
    import pyarrow.parquet  # pyright: ignore[reportMissingImports]
    import tiktoken  # pyright: ignore[reportMissingImports]
    import torch

    text = json.loads((folder / "text.json").read_text())
    data = folder / "base_data_climbmix"
    data.mkdir(exist_ok=True)
    for name, documents in (("shard_00000", text["train"]), ("shard_00001", text["val"])):
        table = pyarrow.table({"text": documents})
        pyarrow.parquet.write_table(table, data / f"{name}.parquet", row_group_size=DOCUMENTS_AT_ONCE)
    ranks = {char.encode(): number for number, char in enumerate(text["chars"])}
    special = {f"<|{name}|>": len(ranks) + number for number, name in enumerate(SPECIAL)}
    encoding = tiktoken.Encoding("characters", pat_str=r"[\s\S]", mergeable_ranks=ranks, special_tokens=special)
    sample = text["val"][0]
    assert len(encoding.encode_ordinary(sample)) == len(sample), "a character is not one token"
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir(exist_ok=True)
    (tokenizer / "tokenizer.pkl").write_bytes(pickle.dumps(encoding))
    torch.save(torch.tensor([1] * len(ranks) + [0] * len(special), dtype=torch.int32), tokenizer / "token_bytes.pt")
    print(f"{len(text['train'])} documents to train on, {len(text['val'])} to validate with, {encoding.n_vocab} tokens")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
