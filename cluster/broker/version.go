package broker

import (
	"slices"
	"strconv"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"
)

// A brokerVersion tells which direct reply-to names a broker makes, by its own version
// and that of Erlang.
type brokerVersion struct {
	knownForm bool // the names have the form that this package knows
	wideIDs   bool // ids and serials may be wide
}

// versionOf reads the versions from the server properties of a connection.
func versionOf(serverProperties amqp.Table) brokerVersion {
	version, _ := serverProperties["version"].(string)
	platform, _ := serverProperties["platform"].(string)
	erlang, _ := strings.CutPrefix(platform, "Erlang/OTP ")
	return brokerVersion{
		knownForm: atLeast(version, 3, 8, 13),
		wideIDs:   atLeast(erlang, 26),
	}
}

// atLeast reports whether a version such as "3.10.8" or "4.2.0-rc.1" is the other one
// or a later one.
func atLeast(version string, other ...int) bool {
	var numbers []int
	for part := range strings.SplitSeq(version, ".") {
		digits, _, _ := strings.Cut(part, "-")
		n, err := strconv.Atoi(digits)
		if err != nil {
			break
		}
		numbers = append(numbers, n)
	}
	return slices.Compare(numbers, other) >= 0
}
