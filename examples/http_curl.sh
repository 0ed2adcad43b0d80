#!/bin/sh
# The HTTP API with curl. Start a server first: make serve
#
#   sh examples/http_curl.sh build/examples/6.png http://127.0.0.1:8000
set -eu
image=$1 server=${2:-http://127.0.0.1:8000}

# An edit. The response is JSON; data[0].b64_json is the picture, data[0].mask the mask.
curl -sSf "$server/v1/images/edits" -F image=@"$image" -F seed=1 \
    -F source_prompt="a black heart in a studio" -F prompt="a black mug in a studio" > edit.json

# A mask alone, made again with another threshold (no network runs), and used for an edit.
id=$(curl -sSf "$server/v1/masks" -F image=@"$image" \
    -F source_prompt="a black heart in a studio" -F prompt="a black mug in a studio" |
    sed -n 's/.*"mask_id": *"\([^"]*\)".*/\1/p')
refined=$(curl -sSf "$server/v1/masks/$id" -d threshold=0.3 -d grow=1 |
    sed -n 's/.*"mask_id": *"\([^"]*\)".*/\1/p')
curl -sSf "$server/v1/images/edits" -F image=@"$image" -F mask_id="$refined" \
    -F prompt="a black mug in a studio" > refined.json
echo "mask $id, refined $refined"
