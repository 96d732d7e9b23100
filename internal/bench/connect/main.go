// Connect is the core of Redpanda Connect, from a CSV file to DELETEs: a contender
// of the benchmark. It is a program of its own, since its packages take a while to
// start, which the others should not pay for.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strconv"

	_ "github.com/redpanda-data/benthos/v4/public/components/io"
	_ "github.com/redpanda-data/benthos/v4/public/components/pure"
	"github.com/redpanda-data/benthos/v4/public/service"
)

const config = `
http:
  enabled: false
logger:
  level: ERROR
input:
  csv:
    paths: [ %q ]
output:
  http_client:
    url: '%s/payment-links/${! json("id") }'
    verb: DELETE
    headers:
      Authorization: %s
    max_in_flight: %d
`

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "connect:", err)
		os.Exit(1)
	}
}

// run works until the file's end: base URL, API key, manifest, concurrency. It
// has no queue that lasts.
func run(ctx context.Context, args []string) error {
	base, key, manifest := args[0], args[1], args[2]
	concurrency, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	// It would keep 2 idle connections.
	http.DefaultTransport.(*http.Transport).MaxIdleConnsPerHost = concurrency
	builder := service.NewStreamBuilder()
	if err := builder.SetYAML(fmt.Sprintf(config, manifest, base, key, concurrency)); err != nil {
		return err
	}
	stream, err := builder.Build()
	if err != nil {
		return err
	}
	return stream.Run(ctx)
}
