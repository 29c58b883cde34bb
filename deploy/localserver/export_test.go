package localserver

import "slices"

// These give the tests what only they need.

var (
	FreePorts   = freePorts
	AnyTaken    = anyTaken
	OnFreePorts = onFreePorts
)

// Processes returns the ids of all processes of the server, its own first.
func (s *server) Processes() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []int
	for _, p := range slices.Backward(s.current.processes) {
		ids = append(ids, p.child.Pid)
		ids = append(ids, pids(findDescendants(p.child.Pid))...)
	}
	return ids
}

// HideInstallations makes everything look as if nothing were installed, until
// the returned function is called.
func HideInstallations() (restore func()) {
	p, r, e := postgresFolders, rabbitmqFolders, erlangFolders
	postgresFolders, rabbitmqFolders, erlangFolders = nil, nil, nil
	return func() { postgresFolders, rabbitmqFolders, erlangFolders = p, r, e }
}
