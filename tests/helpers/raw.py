"""A client for attack tests, run inside a pod: sends bytes as they are and gives back what came.

    python raw.py < [{"host", "port", "pieces": [text as Latin-1, or seconds to wait], "wait": seconds}]

Prints a list of {"port": own port, "answer": text as Latin-1, "end": "eof" | "reset" | "open" | error}. All are sent at
once. A piece `null` ends the sending (half-close). "open" is said `wait` seconds after the last byte came.
"""

import json
import socket
import sys
import threading
import time
from typing import Any

Case = dict[str, Any]


def run(case: Case, result: Case) -> None:
    """One connection."""
    answer = b""
    result.update(port=0, answer="", end="open")
    try:
        with socket.create_connection((case["host"], case["port"]), 10) as sock:
            result["port"] = sock.getsockname()[1]
            sock.settimeout(case.get("wait", 1.0))
            try:
                for piece in case["pieces"]:
                    if piece is None:
                        sock.shutdown(socket.SHUT_WR)
                    elif isinstance(piece, str):
                        sock.sendall(piece.encode("latin-1"))
                    else:
                        time.sleep(piece)
            except OSError as error:
                result["sending"] = type(error).__name__
            while True:
                try:
                    chunk = sock.recv(65536)
                except TimeoutError:
                    break
                except ConnectionError:
                    result["end"] = "reset"
                    break
                if not chunk:
                    result["end"] = "eof"
                    break
                answer += chunk
    except OSError as error:
        result["end"] = type(error).__name__
    result["answer"] = answer.decode("latin-1")


def main() -> None:
    """Send what standard input says."""
    cases: list[Case] = json.load(sys.stdin)
    results: list[Case] = [{} for _ in cases]
    threads = [threading.Thread(target=run, args=pair) for pair in zip(cases, results, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
