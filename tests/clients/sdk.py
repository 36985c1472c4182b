"""The provider's Python SDK. Arguments: base URL, then key, session and group of each call."""
import sys

from wasend import WasendClient

base_url, *calls = sys.argv[1:]
for key, session, group in zip(calls[0::3], calls[1::3], calls[2::3]):
    try:
        client = WasendClient(api_key=key, base_url=base_url)
        client.delete_group_picture(session_id=session, group_id=group)
        print("ok", flush=True)
    except Exception as error:
        print("error", str(error).replace("\n", " "), flush=True)
