# Completion of linkcancel for fish: linkcancel completion fish | source
function __linkcancel_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l found ($words[1] __complete -- $words[2..-1] "$current" 2>/dev/null)
    if contains -- :files $found
        __fish_complete_path "$current"
        return
    end
    printf '%s\n' $found
end
complete -c linkcancel -f -a '(__linkcancel_complete)'
