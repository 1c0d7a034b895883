"""Asks through httpx what the lines of standard input say, over one connection, and prints a line of
JSON for each answer. Arguments: the URL that paths are appended to, and 1 or 2 for HTTP's version."""

import json
import sys

import httpx

url, version = sys.argv[1:]
with httpx.Client(
    base_url=url, http1=version == "1", http2=version == "2", timeout=20
) as client:
    for line in sys.stdin:
        asked = json.loads(line)
        # Parts are sent as they come, without a length known before.
        parts = asked.pop("parts", None)
        content = (part.encode() for part in parts) if parts else None
        answer = client.request(asked.pop("method"), asked.pop("path"), content=content, **asked)
        print(
            json.dumps(
                {
                    "version": answer.http_version,
                    "status": answer.status_code,
                    "headers": dict(answer.headers),
                    "body": answer.text,
                }
            ),
            flush=True,
        )
