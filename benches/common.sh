# What the measurements of the whole share: sourced by whole.sh and hostile.sh, which set `folder` and `token`.

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

need() { # tool
    command -v "$1" > /dev/null && return
    echo "installing $1"
    { [ "$(id -u)" -eq 0 ] && apt-get install -y -qq "$1" || sudo apt-get install -y -qq "$1"; } > /dev/null
}

# A configuration with one caller, who may delete as fast as it can. Lines for [listen] come from standard input.
configure() { # provider's port
    echo obviously-fake-key > "$folder/key"
    cat > "$folder/gateway.toml" << TOML
[listen]
address = "127.0.0.1:0"
$(cat)
[ops]
address = "127.0.0.1:0"
[upstream]
url = "http://127.0.0.1:$1"
api_key_file = "key"
[ledger]
path = "ledger"
[[callers]]
name = "bench"
tokens = [{ id = "t", sha256 = "$(printf %s "$token" | sha256sum | cut -d' ' -f1)" }]
rates = [{ max = 1000000, per_s = 1 }]
[[callers.allow]]
sessions = ["sess1"]
groups = ["*@g.us"]
TOML
}

# Waits for the gateway that writes to $folder/ready, and prints its port.
ready() {
    until [ -s "$folder/ready" ]; do sleep 0.01; done
    python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["listen"].split(":")[1])' "$folder/ready"
}
