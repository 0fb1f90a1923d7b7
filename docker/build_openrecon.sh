#!/bin/sh
# Build the image for OpenRecon and save it: OpenRecon_VENDOR_ID_VVERSION.tar in the folder given, or in this one.
# Further words go to `docker build`, such as --build-arg TORCH_INDEX=ADDRESS.
set -eu
folder=${1:-$PWD}
[ $# -eq 0 ] || shift
cd "$(dirname "$0")/.."
label=protocols/openrecon.json
read -r vendor id version <<END
$(python3 -c 'import json, sys; about = json.load(open(sys.argv[1]))["general"]; print(about["vendor"], about["id"], about["version"])' "$label")
END
tag=$(printf 'openrecon_%s_%s:v%s' "$vendor" "$id" "$version" | tr '[:upper:]' '[:lower:]')
docker build --target openrecon --tag "$tag" --build-arg "LABEL=$(base64 < "$label" | tr -d '\n')" "$@" .
docker save --output "$folder/OpenRecon_${vendor}_${id}_V${version}.tar" "$tag"
echo "$folder/OpenRecon_${vendor}_${id}_V${version}.tar: $tag"
