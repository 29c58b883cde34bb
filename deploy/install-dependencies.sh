#!/bin/sh
# Installs RabbitMQ and PostgreSQL if they are missing, unless GLOTPOD_IDENT_RABBITMQ and
# GLOTPOD_IDENT_POSTGRES name folders with their programs. With the argument "test", also a
# C compiler, for Go's race detector, Chromium, for the tests of the status page, PgBouncer,
# curl, zsh, fish, bash-completion and mandoc, for the tests of the command line, and the libraries of
# the Python clients. With "deploy", also systemd, for the checks of its
# units, Prometheus, for promtool, Docker, for the image, rpm, for the packages, and Node.js with npm, for the TypeScript client
# and cluster/asyncapi.yaml. With "engines", only mmdebstrap, which gets other versions of both. Checks
# the version of Go, but does not install Go. Does nothing if everything is installed.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)

fail() {
	printf '%s\n' "$@" >&2
	exit 1
}

check_go() {
	wanted=$(sed -n 's/^go \([0-9]*\.[0-9]*\).*/\1/p' "$root/go.mod")
	command -v go >/dev/null ||
		fail "Go $wanted or later is needed, and there is no go on the PATH. See https://go.dev/doc/install"
	# In the module's folder, the go command may download the version that go.mod
	# requires.
	found=$(cd "$root" && go env GOVERSION 2>&1) || fail "$found"
	number=$(printf '%s\n' "$found" | sed -n 's/.*go\([0-9]*\.[0-9]*\).*/\1/p')
	if [ "${number%.*}" -lt "${wanted%.*}" ] ||
		{ [ "${number%.*}" -eq "${wanted%.*}" ] && [ "${number#*.}" -lt "${wanted#*.}" ]; }; then
		fail "Go $wanted or later is needed, and this is $found. See https://go.dev/doc/install"
	fi
}

# deploy/localserver looks in the same places.
have_rabbitmq() {
	[ -n "${GLOTPOD_IDENT_RABBITMQ-}" ] || exists /usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server \
		/usr/local/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server \
		/opt/rabbitmq/sbin/rabbitmq-server \
		/opt/homebrew/opt/rabbitmq/sbin/rabbitmq-server \
		/usr/local/opt/rabbitmq/sbin/rabbitmq-server ||
		command -v rabbitmq-server >/dev/null
}

have_postgres() {
	[ -n "${GLOTPOD_IDENT_POSTGRES-}" ] || exists /usr/lib/postgresql/*/bin/initdb \
		/usr/pgsql-*/bin/initdb \
		/opt/homebrew/opt/postgresql*/bin/initdb \
		/usr/local/opt/postgresql*/bin/initdb \
		/usr/local/pgsql/bin/initdb ||
		command -v initdb >/dev/null
}

# On macOS, the race detector needs no C compiler. Elsewhere it needs one with the headers
# of the C library.
have_compiler() {
	[ "$(uname)" = Darwin ] ||
		echo '#include <stdlib.h>' | ${CC:-gcc} -fsyntax-only -x c - 2>/dev/null
}

# chromedp looks in the same places.
have_browser() {
	exists "/Applications/Chromium.app/Contents/MacOS/Chromium" \
		"/Applications/Google Chrome.app/Contents/MacOS/Google Chrome" \
		/usr/local/bin/chrome /snap/bin/chromium && return
	for program in headless_shell headless-shell chromium chromium-browser google-chrome google-chrome-stable \
		google-chrome-beta google-chrome-unstable chrome; do
		command -v $program >/dev/null && return
	done
	return 1
}

have_pgbouncer() {
	exists /usr/sbin/pgbouncer || command -v pgbouncer >/dev/null
}

# The tests look in the same places.
have_python_libraries() {
	for python in python3 /usr/bin/python3; do
		$python -c 'import aioamqp, msgpack, pika' 2>/dev/null && return
	done
	return 1
}

# The tests look in the same places.
have_bash_completion() {
	for folder in /usr/share /opt/homebrew/share /usr/local/share; do
		[ -e $folder/bash-completion/bash_completion ] && return
	done
	return 1
}

exists() {
	for file in "$@"; do
		[ -x "$file" ] && return 0
	done
	return 1
}

# install_packages must run as root. If sudo is needed, it runs in a process of its own.
install_packages() {
	# The packages would start servers for the whole machine, which are not needed.
	# Debian's policy-rc.d forbids this. The file has an effect only while this script
	# runs, in case it is left behind.
	policy=/usr/sbin/policy-rc.d
	if [ ! -e $policy ]; then
		trap 'rm -f $policy' EXIT
		trap 'exit 1' HUP INT TERM
		printf '#!/bin/sh\nkill -0 %d 2>/dev/null && exit 101\nexit 0\n' $$ >$policy
		chmod 755 $policy
	fi
	export DEBIAN_FRONTEND=noninteractive
	apt-get -q update </dev/null
	apt-get -q -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@" </dev/null
}

if [ "${1-}" = install-packages ]; then
	shift
	install_packages "$@"
	exit
fi

check_go
packages=
if [ "${1-}" = engines ]; then
	command -v mmdebstrap >/dev/null || packages="$packages mmdebstrap"
else
	have_rabbitmq || packages="$packages rabbitmq-server"
	have_postgres || packages="$packages postgresql"
fi
if [ "${1-}" = test ]; then
	have_compiler || packages="$packages gcc libc6-dev"
	have_browser || packages="$packages chromium"
	have_pgbouncer || packages="$packages pgbouncer"
	command -v curl >/dev/null || packages="$packages curl"
	for program in zsh fish mandoc; do
		command -v $program >/dev/null || packages="$packages $program"
	done
	have_bash_completion || packages="$packages bash-completion"
	have_python_libraries || packages="$packages python3-aioamqp python3-msgpack python3-pika"
fi
if [ "${1-}" = deploy ]; then
	command -v systemd-analyze >/dev/null || packages="$packages systemd"
	command -v promtool >/dev/null || packages="$packages prometheus"
	command -v dockerd >/dev/null || packages="$packages docker.io"
	command -v busybox >/dev/null || packages="$packages busybox-static"
	command -v rpm >/dev/null || packages="$packages rpm"
	command -v npm >/dev/null || packages="$packages nodejs npm"
fi
[ -n "$packages" ] || exit 0

if ! command -v apt-get >/dev/null; then
	fail "Missing (names of Debian's packages):$packages." \
		"Install them and try again, for example by" \
		"  macOS:   brew install rabbitmq postgresql pgbouncer zsh fish mandoc bash-completion@2; brew install --cask chromium" \
		"  Fedora:  sudo dnf install rabbitmq-server postgresql-server pgbouncer gcc chromium zsh fish mandoc bash-completion" \
		"  Arch:    sudo pacman -S rabbitmq postgresql pgbouncer gcc chromium zsh fish mandoc bash-completion" \
		"  Python's libraries: pip install aioamqp msgpack pika"
elif [ "$(id -u)" -eq 0 ]; then
	as_root=
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
	as_root='sudo -n'
elif command -v sudo >/dev/null && [ -t 0 ]; then
	as_root=sudo
else
	fail "Missing:$packages. Install it as root and try again:" \
		"  apt-get update && apt-get install -y --no-install-recommends$packages"
fi
echo "Installing$packages." >&2
# shellcheck disable=SC2086 # these are lists of words
$as_root sh "$0" install-packages $packages
