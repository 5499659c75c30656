#!/usr/bin/env bash
# Slurm runs this on every node of a job after it: ends what the job left behind there.
# proctrack/linuxproc follows parents, so a process that daemonized escapes it; on a real cluster
# proctrack/cgroup would catch it. Told by the environment that slurmd gave the job's tasks.
for p in /proc/[0-9]*; do
    pid=${p#/proc/}
    { [ "$pid" -gt 1 ] && [ "$pid" != $$ ] && mapfile -d '' -t env <"$p/environ"; } 2>/dev/null || continue
    case " ${env[*]} " in
    *" SLURM_JOB_ID=$SLURM_JOB_ID "*)
        echo "$(date -u +%T) job $SLURM_JOB_ID left $pid: $(tr '\0' ' ' <"$p/cmdline" | cut -c1-80)" >>/etc/slurm/leftovers
        kill -KILL "$pid" 2>/dev/null
        ;;
    esac
done
exit 0
