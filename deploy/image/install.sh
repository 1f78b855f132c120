#!/bin/sh
# Installs kpbpf from a directory of wheels into /opt/kpbpf, without network; both recipes run it.
#
#     install.sh WHEELS
set -eu

python3 -m venv --without-pip /opt/kpbpf
/opt/kpbpf/bin/python "$(echo "$1"/pip-*.whl)/pip" install -q --no-cache-dir --no-compile \
    --root-user-action=ignore --no-index --find-links "$1" kpbpf
# Compiled code that does not ask for the sources' times: they change when an image is packed, and
# a read-only root could not hold it anew.
/opt/kpbpf/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/kpbpf/lib
