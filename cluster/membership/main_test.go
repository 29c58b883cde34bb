package membership

import (
	"testing"

	"github.com/glotpod/ident/deploy/testservers"
)

func TestMain(m *testing.M) { testservers.Main(m) }
