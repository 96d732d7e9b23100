#compdef linkcancel
# Completion of linkcancel for zsh: source <(linkcancel completion zsh), after compinit
_linkcancel() {
  local -a found
  local line word
  while IFS= read -r line; do
    if [[ $line == :files ]]; then
      _files
      return
    fi
    word=${line%%$'\t'*}
    if [[ $line == *$'\t'* ]]; then
      found+=("${word//:/\\:}:${line#*$'\t'}")
    else
      found+=("${word//:/\\:}")
    fi
  done < <($words[1] __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)
  _describe linkcancel found
}
if [[ $funcstack[1] == _linkcancel ]]; then
  _linkcancel "$@"
else
  compdef _linkcancel linkcancel
fi
