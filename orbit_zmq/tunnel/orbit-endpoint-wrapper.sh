#!/bin/sh
# Starts an endpoint on a node of a job, in the Python environment of the endpoint that submitted the job.
# ORBIT_PYTHON names its Python; else an `orbit` is looked for beside VIRTUAL_ENV, in CONDA_PREFIX, and in PATH.
# The options are those of `orbit endpoint start`: with --launcher dragon it runs under that, on all nodes of the job.
set -u
[ -z "${SLURM_JOB_ID:-}" ] || export SLURM_EXPORT_ENV=ALL # a launcher's srun passes the environment on, whatever the job says
for prefix in "${VIRTUAL_ENV:-}" "${CONDA_PREFIX:-}"; do
    [ -n "${ORBIT_PYTHON:-}" ] && break
    [ -n "$prefix" ] && [ -x "$prefix/bin/orbit" ] && ORBIT_PYTHON=$prefix/bin/python
done
if [ -n "${ORBIT_PYTHON:-}" ]; then
    if [ ! -x "$ORBIT_PYTHON" ]; then
        echo "orbit-endpoint-wrapper.sh: there is no $ORBIT_PYTHON on $(hostname). Set ORBIT_PYTHON in the job's environment" >&2
        exit 127
    fi
    exec "$ORBIT_PYTHON" -m orbit_zmq.endpoint "$@"
fi
if command -v orbit >/dev/null; then
    exec orbit endpoint start "$@"
fi
echo "orbit-endpoint-wrapper.sh: ORBIT-ZMQ was not found on $(hostname). Set ORBIT_PYTHON in the job's environment" >&2
exit 127
