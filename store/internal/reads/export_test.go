package reads

import "github.com/glotpod/ident/store/internal/changelog"

// MaxDaysPerPage is how many days of the log a page of changes reads.
const MaxDaysPerPage = maxDaysPerPage

// ShiftPosition returns a position as it would be if the days of the log were others.
func ShiftPosition(text string, days int) string {
	p, refusal := parsePosition(text)
	if refusal != nil {
		panic("not a position: " + text)
	}
	p.first = p.first.AddDate(0, 0, days)
	return p.String()
}

// OtherPartitions returns a position with another number of partitions.
func OtherPartitions(text string, partitions int) string {
	p, refusal := parsePosition(text)
	if refusal != nil {
		panic("not a position: " + text)
	}
	p.partitions = make([]int64, partitions)
	return p.String()
}

// AtEpoch returns a position that a partition has reached only under a later epoch.
func AtEpoch(text string, partition int, epoch int64) string {
	p, refusal := parsePosition(text)
	if refusal != nil {
		panic("not a position: " + text)
	}
	p.partitions[partition] = changelog.FirstPosition(epoch)
	return p.String()
}
