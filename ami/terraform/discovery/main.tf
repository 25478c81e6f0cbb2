# What the hub needs in another account where it looks for spokes: a role that it may
# assume. Once in each account, not in each region.

terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = { source = "hashicorp/aws", version = ">= 5.0" }
  }
}

data "aws_partition" "this" {}
data "aws_region" "this" {}
data "aws_caller_identity" "this" {}

module "documents" {
  source        = "../documents"
  role          = "discovery"
  partition     = data.aws_partition.this.partition
  account       = data.aws_caller_identity.this.account_id
  region        = data.aws_region.this.id
  regions       = var.regions
  hub_role_arns = var.hub_role_arns
  external_id   = var.external_id
}

resource "aws_iam_role" "this" {
  name               = "privnet-discovery"
  assume_role_policy = module.documents.trust
}

resource "aws_iam_role_policy" "this" {
  for_each = module.documents.policies
  name     = each.key
  role     = aws_iam_role.this.id
  policy   = each.value
}
