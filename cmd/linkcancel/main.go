// Command linkcancel cancels payment links in bulk, safely and fast.
package main

import "os"

func main() {
	os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
