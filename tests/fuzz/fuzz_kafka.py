"""INVARIANT: as tests/fuzz/kafka_target.py says. Run: `python -m tests.fuzz.fuzz_kafka [CORPUS] [-max_total_time=60]`.

Coverage-guided, by atheris: the first byte chooses the way in, the rest is the frame. A new corpus directory is filled
with one good request of every API and version.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["parsers.kafka"]):
    from tests.fuzz.kafka_target import FRAMES, check_request, check_response, check_start, check_walk


def one_input(data: bytes) -> None:
    """What atheris calls."""
    if len(data) < 4:
        return
    way, rest = data[0] % 4, data[1:]
    if way == 0:
        check_request(rest)
    elif way == 1:
        check_start(rest)
    elif way == 2:
        check_response(rest[0], rest[1], rest[2:])
    else:
        check_walk(3 + rest[0] % 11, rest[2:], len(rest) + rest[1], [rest[1] % 16, len(rest) // 2])


def main() -> None:
    """Fill the corpus where it is empty, and run until stopped."""
    for folder in (Path(each) for each in sys.argv[1:] if not each.startswith("-")):
        folder.mkdir(parents=True, exist_ok=True)
        if not any(folder.iterdir()):
            for number, frame in enumerate(FRAMES):
                (folder / f"request-{number}").write_bytes(b"\0" + frame)
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
