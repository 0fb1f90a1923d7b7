# Images of mrihvae: `server` (the last, so the usual one), `openrecon` and `fire`; docs/scanner.md says how to build them.
#
#   docker build --tag mrihvae .
#   docker/build_openrecon.sh
#   docker/build_fire.sh mrihvae.img

FROM python:3.12-slim AS base
# Where torch comes from, if not from where pip looks: the address of an index with builds for CPU or CUDA 11.8.
ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
RUN if [ -n "$TORCH_INDEX" ]; then pip install --index-url "$TORCH_INDEX" "torch>=2.6" torchvision; fi
COPY pyproject.toml README.md LICENSE /opt/mrihvae/
COPY mrihvae /opt/mrihvae/mrihvae
COPY protocols /opt/mrihvae/protocols
RUN pip install "/opt/mrihvae[mrd2]"
EXPOSE 9002

# For OpenRecon: root, a label that describes it, and a limit on memory that goes with that of the label.
FROM base AS openrecon
ARG LABEL
LABEL "com.siemens-healthineers.magneticresonance.openrecon.metadata:1.1.0"="$LABEL"
USER root
CMD ["mrihvae", "serve", "--host", "0.0.0.0", "--allow-remote", "--port", "9002", "--pixels", "short", "--max-memory", "4", "--max-total-memory", "4"]

# For FIRE: what docker/build_fire.sh makes a chroot image of.
FROM base AS fire
RUN mkdir -p /tmp/share
COPY docker/start_fire.sh /opt/mrihvae/start_fire.sh
CMD ["/opt/mrihvae/start_fire.sh"]

FROM base AS server
RUN useradd --create-home mrihvae
USER mrihvae
CMD ["mrihvae", "serve", "--host", "0.0.0.0", "--allow-remote", "--port", "9002"]
