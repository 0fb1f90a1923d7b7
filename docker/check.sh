#!/bin/sh
# Do without Docker what the Dockerfile does: copy what it copies, install it in a new virtual environment, start each
# server as the images do, on a free port, and send it a scan that comes with the package.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
sed -n 's/^COPY \(.*\) \/opt\/mrihvae\/.*$/\1/p' Dockerfile | tr ' ' '\n' | while read -r path; do
  mkdir -p "$work/copy/$(dirname "$path")"
  cp -r "$path" "$work/copy/$path"
done
python3 -m venv "$work/venv"
PATH=$work/venv/bin:$PATH
sed -n "s|^RUN pip install \"/opt/mrihvae\(.*\)\"|$work/copy\1|p" Dockerfile | xargs pip install -q
# from elsewhere, so that the installed package is the one imported
scan=$work/copy/mrihvae/demo_scans/patient_6A_FLAIR.h5
cd "$work"
sed -n 's/^CMD \["mrihvae", "serve", \(.*\)\]$/\1/p' "$OLDPWD/Dockerfile" | tr -d '",' | while read -r words; do
  echo "mrihvae serve $words"
  log=$(mktemp -p "$work")
  # shellcheck disable=SC2086 # words to be split
  mrihvae serve $(echo "$words" | sed 's/--host 0.0.0.0/--host 127.0.0.1/; s/--port 9002/--port 0/') > "$log" 2>&1 &
  server=$!
  until port=$(sed -n 's/^mrihvae: listening on .*:\([0-9]*\)$/\1/p' "$log") && [ -n "$port" ]; do
    kill -0 "$server" || { cat "$log"; exit 1; }
    sleep 1
  done
  status=0
  mrihvae send "$scan" "127.0.0.1:$port" --output "images-$server" --parameter method=zero-filled || status=$?
  kill "$server"
  [ "$status" = 0 ] || exit "$status"
done
