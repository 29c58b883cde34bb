package localserver

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// A rabbitmqFolder is the folder with all files that a broker reads or writes.
type rabbitmqFolder struct {
	dir string

	// node is the broker's Erlang node. The data belongs to this name, so it must not
	// change.
	node string
}

// cookie is the file with the secret that the nodes of a cluster share.
const cookie = ".erlang.cookie"

// openRabbitMQFolder opens the folder of a broker that joins the cluster of another one,
// or of a broker by itself if join is nil. The nodes of all brokers by themselves have the
// same name. They do not collide, because each broker has its own port mapper.
func openRabbitMQFolder(dir string, join *RabbitMQ) (*rabbitmqFolder, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f := &rabbitmqFolder{dir, "ident@localhost"}
	if err := os.Remove(f.log()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if join == nil {
		return f, nil
	}
	f.node = filepath.Base(dir) + "@localhost"
	if f.node == join.folder.node {
		return nil, fmt.Errorf("the broker to join is the node %s, too", f.node)
	}
	secret, err := os.ReadFile(join.folder.path(cookie))
	if err != nil {
		return nil, err
	}
	err = os.WriteFile(f.path(cookie), secret, 0o400)
	if errors.Is(err, fs.ErrPermission) {
		return f, nil // it was written when the folder was first used
	}
	return f, err
}

func (f *rabbitmqFolder) path(name string) string { return filepath.Join(f.dir, name) }
func (f *rabbitmqFolder) log() string             { return f.path("rabbitmq.log") }

// environment returns the whole environment of the broker and of Erlang's port mapper.
// It names a path in the folder for every file that they would look for elsewhere.
func (f *rabbitmqFolder) environment(erlang string, ports rabbitmqPorts) []string {
	return []string{
		"PATH=" + os.Getenv("PATH") + string(filepath.ListSeparator) + erlang,
		"LANG=C.UTF-8",
		"HOME=" + f.dir, // the cookie is here

		"ERL_EPMD_ADDRESS=" + loopback,
		"ERL_EPMD_PORT=" + strconv.Itoa(ports.epmd),
		"RABBITMQ_DIST_PORT=" + strconv.Itoa(ports.erlang),
		"RABBITMQ_NODENAME=" + f.node,

		"RABBITMQ_MNESIA_BASE=" + f.path("data"),
		"RABBITMQ_LOG_BASE=" + f.path("log"),
		"RABBITMQ_CONFIG_FILE=" + f.path("rabbitmq.conf"),
		"RABBITMQ_ADVANCED_CONFIG_FILE=" + f.path("advanced.config"),
		"RABBITMQ_CONF_ENV_FILE=" + f.path("rabbitmq-env.conf"),
		"RABBITMQ_ENABLED_PLUGINS_FILE=" + f.path("enabled_plugins"),
		"RABBITMQ_PID_FILE=" + f.path("pid"),

		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=+S 2:2 -kernel inet_dist_use_interface {127,0,0,1}",
		// This makes the script replace itself by the broker, so that a signal to the
		// process reaches the broker.
		"RUNNING_UNDER_SYSTEMD=true",
	}
}

// deprecated are the features that RabbitMQ has deprecated, in any version up to 4.3.
var deprecated = []string{
	"amqp_address_v1",
	"amqp_filter_set_bug",
	"classic_queue_mirroring",
	"global_qos",
	"management_metrics_collection",
	"queue_master_locator",
	"ram_node_type",
	"transient_nonexcl_queues",
}

// advanced returns the broker's settings in Erlang's form. A version of RabbitMQ ignores
// settings that it does not know here. In the other file it refuses them.
func advanced(o RabbitMQOptions) string {
	if !o.DenyDeprecated {
		return "[].\n"
	}
	denied := strings.Join(deprecated, " => false, ") + " => false"
	return "[{rabbit, [{permit_deprecated_features, #{" + denied + "}}]}].\n"
}

// configure writes the broker's settings files.
func (f *rabbitmqFolder) configure(ports rabbitmqPorts, o RabbitMQOptions) error {
	var b strings.Builder
	set := func(key string, value any) { fmt.Fprintf(&b, "%s = %v\n", key, value) }

	set("listeners.tcp.1", address(ports.amqp))
	set("management.tcp.ip", loopback)
	set("management.tcp.port", ports.management)
	set("auth_mechanisms.1", "PLAIN")
	set("auth_mechanisms.2", "AMQPLAIN")
	if t := o.TLS; t != nil {
		set("auth_mechanisms.3", "EXTERNAL")
		set("listeners.ssl.1", address(ports.tls))
		for key, file := range map[string]string{"cacertfile": t.CAFile, "certfile": t.CertFile, "keyfile": t.KeyFile} {
			file, err := filepath.Abs(file)
			if err != nil {
				return err
			}
			set("ssl_options."+key, file)
		}
		set("ssl_options.verify", "verify_peer")
		set("ssl_options.fail_if_no_peer_cert", t.RequireCert)
		set("ssl_cert_login_from", "common_name")
	}
	if o.Join != nil {
		set("cluster_formation.peer_discovery_backend", "classic_config")
		set("cluster_formation.classic_config.nodes.1", o.Join.folder.node)
	}
	if o.PauseMinority {
		set("cluster_partition_handling", "pause_minority")
	}
	// The default limit would block publishers on a disk that is merely rather full.
	set("disk_free_limit.absolute", "50MB")
	set("management_agent.disable_metrics_collector", !o.Metrics)
	if o.MaxMessageSize > 0 {
		set("max_message_size", o.MaxMessageSize)
	}
	set("log.file", false)
	set("log.console", true)
	set("log.console.level", "warning")
	set("log.console.use_colors", "off")

	for name, text := range map[string]string{
		"rabbitmq.conf":   b.String(),
		"advanced.config": advanced(o),
		"enabled_plugins": "[rabbitmq_auth_mechanism_ssl,rabbitmq_consistent_hash_exchange,rabbitmq_management].\n",
	} {
		if err := os.WriteFile(f.path(name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}
