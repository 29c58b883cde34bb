package localserver

func pids(descendants []descendant) (ids []int) {
	for _, r := range descendants {
		ids = append(ids, r.pid)
	}
	return ids
}

// Alive reports whether the process runs. A zombie does not run: it has ended, and its
// parent has not yet waited for it.
func Alive(pid int) bool {
	_, state, _, ok := stat(pid)
	return ok && state != 'Z'
}
