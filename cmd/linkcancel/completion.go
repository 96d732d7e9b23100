package main

import (
	"context"
	_ "embed"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"linkcancel/internal/clean"
	"linkcancel/internal/ledger"
)

var (
	//go:embed completion/linkcancel.bash
	completionBash string
	//go:embed completion/linkcancel.zsh
	completionZsh string
	//go:embed completion/linkcancel.fish
	completionFish string
)

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"The shell: ${enum}."`
}

// Help is shown by completion --help.
func (completionCmd) Help() string {
	return `Commands, flags, their values and files are completed, and the ids of batches if Redis answers within a second.

    source <(linkcancel completion bash)          # in ~/.bashrc
    source <(linkcancel completion zsh)           # in ~/.zshrc, after compinit
    linkcancel completion fish | source           # in ~/.config/fish/config.fish`
}

func (c completionCmd) Run(ctx context.Context, a *cliApp) error {
	script := map[string]string{"bash": completionBash, "zsh": completionZsh, "fish": completionFish}[c.Shell]
	_, err := fmt.Fprint(a.stdout, script)
	return err
}

// completeCmd is what the scripts call, with -- before the words of the command line. It prints the
// completions of the last word, each with a tab and its meaning. ":files" means file names.
type completeCmd struct {
	Words []string `arg:"" optional:"" help:"The words after linkcancel; the last one is completed."`
	redisFlags
}

// completeTimeout is how long a user waits for the ids of batches.
const completeTimeout = time.Second

func (c completeCmd) Run(ctx context.Context, a *cliApp) error {
	parser, err := newParser(&cli{}, a.stdout, a.stderr)
	if err != nil {
		return err
	}
	for _, found := range complete(parser.Model.Node, c.Words, func() []candidate { return c.batches(ctx, a) }) {
		if found.meaning == "" {
			fmt.Fprintln(a.stdout, found.word)
		} else {
			fmt.Fprintf(a.stdout, "%s\t%s\n", found.word, found.meaning)
		}
	}
	return nil
}

// batches are the ids of all batches, the newest first; none if Redis is away.
func (c completeCmd) batches(ctx context.Context, a *cliApp) []candidate {
	ctx, cancel := context.WithTimeout(ctx, completeTimeout)
	defer cancel()
	quick := *a
	quick.log = a.logger(a.stderr, "error")
	b, err := c.open(ctx, &quick)
	if err != nil {
		return nil
	}
	defer b.Close()
	all, err := ledger.New(b.Client()).List(ctx)
	if err != nil {
		return nil
	}
	var found []candidate
	for _, b := range all {
		found = append(found, candidate{b.ID, strings.TrimSpace(string(b.State) + " " + clean.Line(b.Name))})
	}
	return found
}

// candidate is a word that may be meant.
type candidate struct{ word, meaning string }

// fileNames means the names of files.
var fileNames = candidate{word: ":files"}

// complete finds what the last of words may become.
func complete(root *kong.Node, words []string, batches func() []candidate) []candidate {
	if len(words) == 0 {
		words = []string{""}
	}
	last := words[len(words)-1]
	node, args := root, 0
	var flag *kong.Flag // whose value comes next
	onlyArgs := false   // behind --
	for _, word := range words[:len(words)-1] {
		name, _, withValue := strings.Cut(word, "=")
		switch {
		case flag != nil && word == "=": // as bash splits --flag=value
		case flag != nil:
			flag = nil
		case onlyArgs:
			args++
		case word == "--":
			onlyArgs = true
		case strings.HasPrefix(word, "-") && word != "-":
			if f := findFlag(node, name); f != nil && !withValue && !f.IsBool() {
				flag = f
			}
		case node.Name == "help" || child(node, word) == nil:
			args++
		default:
			node = child(node, word)
		}
	}
	switch name, value, withValue := strings.Cut(last, "="); {
	case flag != nil:
		return starting(strings.TrimPrefix(last, "="), "", flagValues(flag, strings.TrimPrefix(last, "=")))
	case !onlyArgs && strings.HasPrefix(last, "-") && withValue:
		if f := findFlag(node, name); f != nil {
			return starting(last, name+"=", flagValues(f, value))
		}
		return nil
	case !onlyArgs && strings.HasPrefix(last, "-"):
		return starting(last, "", flagsOf(node))
	case node.Name == "help" && node.Parent == root:
		return starting(last, "", helped(root, words, args))
	case len(node.Children) > 0:
		return starting(last, "", children(node))
	case len(node.Positional) > 0:
		arg := node.Positional[min(args, len(node.Positional)-1)]
		if args >= len(node.Positional) && !arg.IsCumulative() {
			return nil
		}
		return starting(last, "", argValues(arg, batches))
	}
	return nil
}

// starting are those that begin as typed, with a prefix before each.
func starting(typed, prefix string, all []candidate) []candidate {
	if len(all) == 1 && all[0] == fileNames {
		return all
	}
	var found []candidate
	for _, c := range all {
		c.word = prefix + c.word
		if strings.HasPrefix(c.word, typed) {
			found = append(found, c)
		}
	}
	return found
}

func child(node *kong.Node, name string) *kong.Node {
	i := slices.IndexFunc(node.Children, func(c *kong.Node) bool { return c.Name == name })
	if i < 0 {
		return nil
	}
	return node.Children[i]
}

func children(node *kong.Node) []candidate {
	var found []candidate
	for _, c := range node.Children {
		if !c.Hidden {
			found = append(found, candidate{c.Name, c.Help})
		}
	}
	return found
}

// helped are the commands that may come next behind help.
func helped(root *kong.Node, words []string, args int) []candidate {
	node := root
	for _, word := range words[len(words)-1-args : len(words)-1] {
		if node = child(node, word); node == nil {
			return nil
		}
	}
	return children(node)
}

// findFlag finds a flag of a command by what is typed: --name or -n.
func findFlag(node *kong.Node, typed string) *kong.Flag {
	for _, group := range node.AllFlags(false) {
		for _, f := range group {
			if typed == "--"+f.Name || f.Short != 0 && typed == "-"+string(f.Short) {
				return f
			}
		}
	}
	return nil
}

func flagsOf(node *kong.Node) []candidate {
	var found []candidate
	for _, group := range node.AllFlags(true) {
		for _, f := range group {
			found = append(found, candidate{"--" + f.Name, f.Help})
		}
	}
	return found
}

// flagValues are the values that a flag may have; typed is the beginning of one.
func flagValues(f *kong.Flag, typed string) []candidate {
	switch {
	case f.Enum != "":
		return plainWords(f.EnumSlice())
	case f.Tag.Has("list"):
		// Behind those that are typed already.
		before := typed[:strings.LastIndex(typed, ",")+1]
		var found []candidate
		for word := range strings.SplitSeq(f.Tag.Get("list"), ",") {
			found = append(found, candidate{word: before + word})
		}
		return found
	case strings.Contains(f.FormatPlaceHolder(), "FILE"), f.Name == "resume":
		return []candidate{fileNames}
	}
	return nil
}

func argValues(arg *kong.Positional, batches func() []candidate) []candidate {
	switch {
	case arg.Enum != "":
		return plainWords(arg.EnumSlice())
	case arg.Name == "batch":
		return append([]candidate{{"latest", "the newest batch"}}, batches()...)
	case arg.Name == "file":
		return []candidate{fileNames}
	}
	return nil
}

func plainWords(words []string) []candidate {
	var found []candidate
	for _, w := range words {
		found = append(found, candidate{word: w})
	}
	return found
}
