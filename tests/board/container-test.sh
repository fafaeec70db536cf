#!/bin/bash
# make container-test: the package in a container with systemd, from installation to purge (tests/board/inside/package.sh).
#
#   container-test.sh [--deb FILE] [--arch ARCH] [--suite SUITE] [--timeout S]
#
# Without --deb it is built first, for this machine's own release. The upgrade is to a later version of it (later.py).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd); top=$(cd "$here/../.." && pwd)
deb= limit=900 suite=$(. /etc/os-release; echo "$VERSION_CODENAME") rest=()
while [ $# -gt 0 ]; do
  case $1 in --deb) deb=$2; shift 2 ;; --timeout) limit=$2; shift 2 ;; --arch) rest+=(--arch "$2"); shift 2 ;; --suite) suite=$2; shift 2 ;; *) sed -n '2,9p' "$0" >&2; exit 2 ;; esac
done
began=$(date +%s)
work=$(mktemp -d "${TMPDIR:-/tmp}/boardfit.XXXXXX"); trap 'rm -rf "$work"' EXIT
[ -n "$deb" ] || deb=$("$top/package/build-deb.sh" "$work/built" | tail -1)
. "$here/job.sh"
lay_out "$work/in" "$deb" "$suite"
cat >"$work/in/site.yaml" <<X
registry: {url: "$(registry_in_package "$deb")", root: "$(registry_in_package "$deb")/root.json"}
tasks: {digits: {budgets: {accuracy_top1: ">= 0.9", size: 47 KiB}}}
measure: {min_runs: 10, min_time: 0.05 s, max_time: 1 s, threads: [1], contended: flag}
X
"$here/container-board.sh" --suite "$suite" ${rest[@]+"${rest[@]}"} --timeout "$limit" --in "$work/in" -- bash /job/in/inside/package.sh
echo "container-test: $(($(date +%s) - began)) s in all"
