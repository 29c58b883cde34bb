package membership

import (
	"testing"

	"github.com/glotpod/ident/deploy/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }
