#!/usr/bin/env bash
# A sweep on a real Slurm that is disturbed at random, or that reaches the time limit of its tasks, must end with the tables of an
# undisturbed one, byte for byte.
#
#     sudo tests/slurm.sh [--install] [--parts limit,disturbed] [--disturbances 22] [--seed 0] [--keep FOLDER]
#
# Starts munge, slurmctld and slurmd as one machine with the partitions low and high, from a temporary folder; when it ends they are
# stopped and the folder is gone. Needs root (slurmd does), and Debian's packages slurm-wlm and munge: --install gets them.
# tests/slurm.py does the rest, with the python in $PYTHON (python3) that has plmsub and submitit.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
if [ "${1:-}" = --install ]; then
    shift
    policy=/usr/sbin/policy-rc.d # the packages' own services are not started
    [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy && added=1; }
    apt-get update -qq && apt-get install -y -qq --no-install-recommends slurm-wlm munge >/dev/null
    [ -z "${added:-}" ] || rm $policy
fi
for program in munged slurmctld slurmd sbatch; do
    PATH=$PATH:/usr/sbin command -v $program >/dev/null || { echo "$program is not here: --install gets it, as root" >&2; exit 2; }
done
[ "$(id -u)" = 0 ] || { echo "slurmd needs root" >&2; exit 2; }

here=$(mktemp -d -t plmsub-slurm.XXXXXX)
export PATH=$PATH:/usr/sbin SLURM_CONF=$here/slurm.conf
services=()
stop() {
    scancel --user=root 2>/dev/null || true
    [ ! -e "$here/slurmctld.pid" ] || services+=("$(cat "$here/slurmctld.pid")") # the test starts it anew
    for pid in "${services[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait || true
    rm -rf "$here"
}
trap stop EXIT

chmod 755 "$here"
mkdir "$here"/{state,spool,work}
head -c 1024 /dev/urandom >"$here/munge.key"
chmod 400 "$here/munge.key"
munged --foreground --force --key-file="$here/munge.key" --socket="$here/munge.socket" --pid-file="$here/munge.pid" \
    --log-file="$here/munge.log" --seed-file="$here/munge.seed" &
services+=($!)
read -r port other < <("$python" -c '
import socket
s = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(x.getsockname()[1] for x in s))')
host=$(hostname -s)
cat >"$SLURM_CONF" <<END
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$other
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$here/munge.socket,cred_expire=5
StateSaveLocation=$here/state
SlurmdSpoolDir=$here/spool
SlurmctldPidFile=$here/slurmctld.pid
SlurmdPidFile=$here/slurmd.pid
SlurmctldLogFile=$here/slurmctld.log
SlurmdLogFile=$here/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=15
ReturnToService=1
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,batch_sched_delay=1,bf_interval=5
MpiDefault=none
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=low Nodes=$host Default=YES PriorityTier=1 MaxTime=INFINITE State=UP
PartitionName=high Nodes=$host PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP
END
slurmctld -D >/dev/null 2>&1 &
slurmd -D >/dev/null 2>&1 &
services+=($!)
for _ in $(seq 60); do
    [ "$(sinfo -h -p low -o %T 2>/dev/null)" = idle ] && break
    sleep 1
done
[ "$(sinfo -h -p low -o %T)" = idle ] || { tail "$here"/slurm*.log; exit 1; }

cd "$here/work"
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} PLMSUB_DATA=$here/data OMP_NUM_THREADS=1
"$python" "$root/tests/slurm.py" --pid-file "$here/slurmctld.pid" "$@"
