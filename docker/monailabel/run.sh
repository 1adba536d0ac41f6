#!/usr/bin/env bash
# Builds the locked MONAI Label environment once (several GB, ten minutes), then lets serve.py start the real server in it; all arguments go to serve.py.
#   docker/monailabel/run.sh --bundle bundles/ct_tumor --scan scan.nii.gz -o out
#   docker/monailabel/run.sh --bundle bundles/ct_tumor --scan scan.nii.gz --train a.nii.gz=a_label.nii.gz --train b.nii.gz=b_label.nii.gz -o out
# VOLSEG_MONAILABEL_ENV: folder of the environment (default ~/.cache/volseg/monailabel); VOLSEG_MONAILABEL_PYTHON: the Python 3.11 that makes it.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
environment=${VOLSEG_MONAILABEL_ENV:-$HOME/.cache/volseg/monailabel}
stamp=$environment/volseg-requirements.txt

if ! cmp -s "$here/requirements.txt" "$stamp"; then
    echo "building the MONAI Label environment in $environment" >&2
    "${VOLSEG_MONAILABEL_PYTHON:-python3.11}" -m venv --clear "$environment" >&2
    # The lock is complete, so nothing is left to resolve; letting pip resolve it again takes minutes and downloads versions it then discards.
    "$environment/bin/pip" install --no-deps --requirement "$here/requirements.txt" >&2
    # Written last, so that an interrupted installation is never taken for a whole one.
    cp "$here/requirements.txt" "$stamp"
fi

exec "$environment/bin/python" "$here/serve.py" "$@"
