# What the drivers here share. Sourced, never run.

# lay_out DIR DEB: a job's folder with README, the checks, the package, and the same package as a later revision.
lay_out() {
  mkdir -p "$1/old" "$1/new" "$1/raw"
  cp -r "$here/inside" "$top/README.md" "$1/"
  cp "$2" "$1/old/"
  dpkg-deb -R "$2" "$1/raw"
  sed -i -E 's/^(Version: [^+]*)(\+.*)?$/\1.1\2/' "$1/raw/DEBIAN/control"
  dpkg-deb --root-owner-group -Zgzip -z1 --build "$1/raw" "$1/new" >/dev/null
  rm -rf "$1/raw"
}

# registry_in_package DEB: where the demo's registry lies once the package is installed.
registry_in_package() { dpkg-deb -c "$1" | sed -n 's#.* \./\(opt/.*/agent/_demo_registry\)/root.json$#/\1#p'; }
