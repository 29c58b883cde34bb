#!/bin/sh
# make.sh FOLDER SUITE... puts the RabbitMQ and the PostgreSQL of other Debian releases into
# FOLDER/SUITE, 600 MB each. FOLDER/SUITE/rabbitmq and FOLDER/SUITE/postgres hold programs
# that enter the release, for the environment variables GLOTPOD_IDENT_RABBITMQ and
# GLOTPOD_IDENT_POSTGRES. A suite that is there stays as it is. The packages come from the
# mirror of this machine's apt, or from the mirror that MIRROR names. Needs root, or a user
# with subordinate ids (/etc/subuid).
set -eu

here=$(cd "$(dirname "$0")" && pwd)
folder=$1
shift

# mirror prints the mirror of Debian that apt uses. Without one, mmdebstrap uses its own.
mirror() {
	apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' |
		sort -u | head -n 1
}

# make SUITE DIR makes a release in a new folder.
make() {
	mkdir -p "$2/root"
	mmdebstrap --quiet --variant=minbase --include=rabbitmq-server,postgresql,locales-all \
		--aptopt='Acquire::Check-Valid-Until "false"' --aptopt='APT::Install-Recommends "false"' \
		--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
		--format=tar "$1" "$2/root.tar" ${MIRROR:+"$MIRROR"}
	# Only what enter.sh uses is kept, and the current user owns all of it.
	tar -x -f "$2/root.tar" -C "$2/root" --no-same-owner ./usr ./etc
	rm "$2/root.tar"
	cp "$here/enter.sh" "$2/enter.sh"
	wrap "$2" postgres 'usr/lib/postgresql/*/bin/*'
	wrap "$2" rabbitmq 'usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq*' usr/bin/epmd
}

# wrap DIR NAME PATTERN... makes the folder NAME with a program for each one that matches.
wrap() (
	dir=$1 name=$2
	shift 2
	mkdir "$dir/$name"
	cd "$dir/root"
	# shellcheck disable=SC2048 # the patterns are expanded here
	for program in $*; do
		printf '#!/bin/sh\nexec "$(dirname "$0")/../enter.sh" /%s "$@"\n' "$program" >"../$name/${program##*/}"
		chmod 755 "../$name/${program##*/}"
	done
)

umask 022 # PostgreSQL runs as another user if root starts it
MIRROR=${MIRROR:-$(mirror)}
mkdir -p "$folder"
for suite in "$@"; do
	[ ! -e "$folder/$suite" ] || continue
	echo "Making $folder/$suite, which takes about a minute." >&2
	rm -rf "$folder/$suite.new"
	make "$suite" "$folder/$suite.new"
	mv "$folder/$suite.new" "$folder/$suite"
done
