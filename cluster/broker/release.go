package broker

import (
	"slices"
	"strconv"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"
)

// A release is what a broker's version, and its Erlang's, say of the direct
// reply-to names that it makes.
type release struct {
	direct bool // they have the form that we know
	wide   bool // ids and serials may be wide
}

func releaseOf(serverProperties amqp.Table) release {
	version, _ := serverProperties["version"].(string)
	platform, _ := serverProperties["platform"].(string)
	erlang, _ := strings.CutPrefix(platform, "Erlang/OTP ")
	return release{
		direct: atLeast(version, 3, 8, 13),
		wide:   atLeast(erlang, 26),
	}
}

// atLeast compares a version such as "3.10.8" or "4.2.0-rc.1" with another.
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
