#!/bin/bash
# Builds boardfit_<version>_<arch>.deb for the Debian release and the processor this runs on.
#
#   package/build-deb.sh [OUTPUT-FOLDER]              (default: dist)
#
#   WHEELHOUSE=DIR   take every wheel from there and nothing from the network (make wheelhouse makes one; it must
#                    also hold what requirements/package.lock names)
#   REVISION=N       the package's revision (default 1): <version>-<revision>+<release>
#   DEBFULLNAME, DEBEMAIL   who is named as its maintainer
#   DEB_COMPRESSION  what dpkg-deb is told (default: -Zxz; -Zzstd installs faster and Debian's lintian knows it not)
#
# The environment is made at the path it will have, /opt/boardfit, since scripts and bytecode name it: in a mount
# namespace of its own, where an empty folder lies over /opt. So nothing is written to this machine's /opt, an installed
# boardfit does not disturb, and no root is needed where the kernel gives users namespaces.
# Needs: the release's own python3 with python3-venv, dpkg-deb.
set -euo pipefail
export LC_ALL=C.UTF-8 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
unset PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE
umask 022
top=$(cd "$(dirname "$0")/.." && pwd)
out=$(realpath -m "${1:-$top/dist}")
work=$top/build/deb
python=/usr/bin/python3
prefix=/opt/boardfit

say() { printf '%s\n' "deb: $*" >&2; }
die() { say "$*"; exit 1; }

case $top/ in /opt/*) die "the source tree must not lie below /opt, which is laid over while the package is built" ;; esac
if [ "${WHEELHOUSE:-}" ]; then WHEELHOUSE=$(realpath "$WHEELHOUSE"); export WHEELHOUSE; fi
if [ -z "${BOARDFIT_DEB_NAMESPACE:-}" ]; then
  command -v dpkg-deb >/dev/null || die "dpkg-deb is missing: this needs Debian or Ubuntu"
  "$python" -c 'import venv, ensurepip' 2>/dev/null || die "python3-venv is missing: apt-get install python3-venv"
  rm -rf "$work"; mkdir -p "$work/opt" "$out"
  user=(); [ "$(id -u)" = 0 ] || user=(--map-root-user)
  BOARDFIT_DEB_NAMESPACE=1 exec unshare ${user[@]+"${user[@]}"} --mount -- "$0" "$out"
fi
# What else lies in /opt stays to be seen: pip's own settings may point there.
for other in /opt/*; do
  case $other in /opt/boardfit | '/opt/*') continue ;; esac
  if [ -d "$other" ]; then mkdir "$work$other"; else : >"$work$other"; fi
  mount --rbind "$other" "$work$other"
done
mkdir "$work/opt/boardfit"
mount --rbind "$work/opt" /opt

index=(); [ -z "${WHEELHOUSE:-}" ] || index=(--no-index --find-links "$WHEELHOUSE")
pip=("$work/tools/bin/pip" --quiet)

say "tools"
"$python" -m venv "$work/tools"
"${pip[@]}" install --no-compile --require-hashes ${index[@]+"${index[@]}"} -r "$top/requirements/package.lock"

say "wheel"
mkdir -p "$work/source"
(cd "$top" && tar -c --exclude=__pycache__ --exclude='*.pem' agent benchmarks/zoo/registry profiles pyproject.toml README.md LICENSE) | tar -x -C "$work/source"
"${pip[@]}" wheel --no-index --no-deps --no-build-isolation --wheel-dir "$work/wheel" "$work/source"

say "$prefix, from requirements/agent.lock"
"$python" -m venv --without-pip "$prefix"
"${pip[@]}" --python "$prefix/bin/python" install --no-compile --require-hashes ${index[@]+"${index[@]}"} -r "$top/requirements/agent.lock"
"${pip[@]}" --python "$prefix/bin/python" install --no-compile --no-index --no-deps "$work"/wheel/boardfit-*.whl
# What this environment is for is one command; other distributions' scripts and the shell's activation are not.
find "$prefix/bin" -mindepth 1 ! -name 'python*' ! -name boardfit -delete
rm -rf "$prefix/include" "$prefix/share" "$prefix"/lib64
# wheels carry the modes of whoever made them
chmod -R u=rwX,go=rX "$prefix"
find "$prefix/lib" -type f -perm /111 ! -name '*.so*' -exec sh -c 'for f; do head -c2 "$f" | grep -q "#!" || chmod a-x "$f"; done' sh {} +
find "$prefix/lib" -name '*.so*' -type f -exec chmod a-x {} +
# Bytecode comes with the package: the service may not write it, and a Pi would need a minute. It is not checked against
# its source, whose times dpkg may set.
"$prefix/bin/python" -m compileall -q -j 0 --invalidation-mode unchecked-hash "$prefix/lib" >"$work/compileall.log" || say "some files of others do not compile: $work/compileall.log"

say "files"
root=$work/root
. /etc/os-release
arch=$(dpkg --print-architecture)
upstream=$("$prefix/bin/python" -c 'import agent; print(agent.__version__)')
release=$ID$VERSION_ID; [ "$ID" != debian ] || release=deb$VERSION_ID
maintainer="${DEBFULLNAME:-boardfit} <${DEBEMAIL:-boardfit@example.org}>"
version=$upstream-${REVISION:-1}+$release
series=$("$python" -c 'import sys; print("{}.{}".format(*sys.version_info))')
next=$("$python" -c 'import sys; print("{}.{}".format(sys.version_info[0], sys.version_info[1] + 1))')
mkdir -p "$root/opt" && cp -a "$prefix" "$root/opt/"

put() { install -D -m "${3:-644}" "$1" "$root$2"; }    # SOURCE TARGET [MODE]
here=$top/package
# Every setting is there, explained, and commented out: an installed package configures nothing by itself.
mkdir -p "$root/etc/boardfit/conf.d"
sed -E 's/^( *)([^ #])/\1#\2/' "$top/systemd/agent.yaml" >"$root/etc/boardfit/agent.yaml"
put "$top/systemd/boardfit.service" /usr/lib/systemd/system/boardfit.service
put "$top/systemd/boardfit.slice" /usr/lib/systemd/system/boardfit.slice
put "$here/boards/generator.sh" /usr/lib/systemd/system-generators/boardfit-board 755
for conf in "$here"/boards/*.conf; do put "$conf" "/usr/share/boardfit/boards/$(basename "$conf")"; done
put "$here/debian/sysusers.conf" /usr/lib/sysusers.d/boardfit.conf
put "$here/debian/tmpfiles.conf" /usr/lib/tmpfiles.d/boardfit.conf
put "$here/debian/60-boardfit.rules" /usr/lib/udev/rules.d/60-boardfit.rules
put "$here/boardfit.sh" /usr/bin/boardfit 755

# Both are read off the command line itself, so that they cannot say anything else than --help.
tools=$(echo "$work"/tools/lib/python*/site-packages)
mkdir -p "$root/usr/share/bash-completion/completions" "$root/usr/share/man/man1"
PYTHONPATH=$tools "$prefix/bin/python" -B -m shtab --shell=bash --prog boardfit agent.cli.build_parser >"$root/usr/share/bash-completion/completions/boardfit"
"$prefix/bin/python" -B "$here/manpage.py" >"$work/boardfit.1"
gzip -9n <"$work/boardfit.1" >"$root/usr/share/man/man1/boardfit.1.gz"

doc=$root/usr/share/doc/boardfit
mkdir -p "$doc/examples"
put "$top/systemd/agent.yaml" /usr/share/doc/boardfit/examples/agent.yaml
gzip -9n <"$top/CHANGELOG.md" >"$doc/changelog.gz"
when=${SOURCE_DATE_EPOCH:-$(stat -c %Y "$top/CHANGELOG.md")}
printf 'boardfit (%s) unstable; urgency=medium\n\n  * boardfit %s for %s %s; what is new is in changelog.gz.\n\n -- %s  %s\n' \
  "$version" "$upstream" "$ID" "$VERSION_ID" "$maintainer" "$(date -u -R -d "@$when")" | gzip -9n >"$doc/changelog.Debian.gz"
"$prefix/bin/python" -B "$here/debian/copyright.py" "$prefix" >"$doc/copyright"
put "$here/debian/lintian-overrides" /usr/share/lintian/overrides/boardfit

say "control"
mkdir -p "$root/DEBIAN"
size=$(du -sk --exclude=DEBIAN "$root" | cut -f1)
sed -e "s/@VERSION@/$version/" -e "s/@ARCH@/$arch/" -e "s|@MAINTAINER@|$maintainer|" -e "s/@SIZE@/$size/" -e "s/@PYTHON@/$series/" -e "s/@PYTHON_NEXT@/$next/" \
  "$here/debian/control" >"$root/DEBIAN/control"
echo /etc/boardfit/agent.yaml >"$root/DEBIAN/conffiles"
for script in postinst prerm postrm; do install -m 755 "$here/debian/$script" "$root/DEBIAN/$script"; done
(cd "$root" && find . -type f ! -path './DEBIAN/*' ! -path './etc/*' -printf '%P\0' | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
chmod 644 "$root"/DEBIAN/{control,conffiles,md5sums}
find "$root/etc" "$root/usr" -type d -exec chmod 755 {} +
chmod 644 "$root/etc/boardfit/agent.yaml"

say "archive"
deb=$out/boardfit_${version}_$arch.deb
dpkg-deb --root-owner-group ${DEB_COMPRESSION:--Zxz} --build "$root" "$deb" >&2
rm -rf "$root" "${prefix:?}"/* "$work/tools" "$work/source"   # never all of /opt: the rest is this machine's
echo "$deb"
