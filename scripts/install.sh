#!/bin/sh
# Create $VENV and install genrec with its development tools, without CUDA packages where a CPU
# build of torch is at hand. On Linux the default index serves torch with several gigabytes of CUDA
# libraries; set GENREC_TORCH=torch to install that one on a machine with a GPU.
#
# editable_mode=compat puts the checkout itself on the path. The default, an import hook, comes after
# the current folder: in the one above a checkout called genrec that would be found in its place.
set -eu
PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}
TORCH=${GENREC_TORCH:-torch==2.13.0}
CPU_INDEX=https://download.pytorch.org/whl/cpu

[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
echo "installing into $VENV; the first time takes a few minutes" >&2
echo "1/3 PyTorch" >&2
pip="$VENV/bin/python -m pip -q --disable-pip-version-check"

if ! "$VENV/bin/python" -c "import torch" 2>/dev/null; then
    if [ -n "${GENREC_TORCH:-}" ] || [ "$(uname -s)" != Linux ]; then
        $pip install "$TORCH"
    elif $pip install "$TORCH+cpu" 2>/dev/null; then
        :
    elif "$VENV/bin/python" -c "import urllib.request as r; r.urlopen('$CPU_INDEX/torch/', timeout=5)" 2>/dev/null; then
        $pip install "$TORCH" --index-url "$CPU_INDEX"
    else
        echo "no CPU build of torch is at hand, installing the default build (large)" >&2
        $pip install "$TORCH"
    fi
fi
echo "2/3 genrec, its dependencies and its tools" >&2
$pip install -e ".[dev]" --config-settings editable_mode=compat

echo "3/3 the compiled step of searches" >&2
# The compiled decoding step is kept beside the code; the first search need not wait for it.
"$VENV/bin/python" -c "
import torch
from genrec.decoding import PrefixTrie, expand_beams
trie = PrefixTrie.from_codes(torch.zeros(1, 2, dtype=torch.int64), [2, 2])
root, score = torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1)
expand_beams(trie, 0, torch.zeros(1, 1, 2), root, score, keep=1)
"
